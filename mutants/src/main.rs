//! Puts every mutant of some source files behind `crate::mutated(N)`, so that all of them are compiled once and chosen one at a
//! time by the variable `MUTANT`. The kinds are those of cargo-mutants, but for whole functions that give text or structures.
//!
//! `driftprobe-mutants ROOT FILE…` rewrites the files below ROOT and prints a line a mutant: number, place, what it is.

mod kinds;

use kinds::{has_let, is_test, other_operators, other_results};
use proc_macro2::Span;
use quote::{ToTokens, quote};
use syn::spanned::Spanned;
use syn::visit_mut::{self, VisitMut};
use syn::{BinOp, Block, Expr, Item, ReturnType, UnOp, parse_quote};

/// One file on its way to its mutants.
struct Mutate {
    file: String,
    function: Vec<String>,
    next: usize,
    list: Vec<String>,
}

impl Mutate {
    fn number(&mut self, at: Span, what: &str) -> usize {
        let (n, start, within) = (self.next, at.start(), self.function.join("::"));
        self.list.push(format!("{n}\t{}:{}:{}\t{what} in {within}", self.file, start.line, start.column + 1));
        self.next += 1;
        n
    }

    fn body(&mut self, signature: &syn::Signature, block: &mut Block, inside: impl FnOnce(&mut Self, &mut Block)) {
        // What is computed by the compiler has no switch.
        if signature.constness.is_some() {
            return;
        }
        self.function.push(signature.ident.to_string());
        inside(self, block);
        let result = match &signature.output {
            ReturnType::Default => "()".to_owned(),
            ReturnType::Type(_, of) => of.to_token_stream().to_string().replace(' ', ""),
        };
        for value in other_results(&result) {
            let n = self.number(signature.ident.span(), &format!("replace the result by {}", value.to_token_stream()));
            block.stmts.insert(0, parse_quote!(if crate::mutated(#n) { return #value; }));
        }
        self.function.pop();
    }

    /// `told`: where the arm's guard stands and what it says, without mutants within it.
    fn guard(&mut self, arm: &mut syn::Arm, told: Option<(Span, String)>, deletable: bool) {
        let (Some((token, guard)), Some((span, text))) = (arm.guard.take(), told) else {
            if deletable {
                let n = self.number(arm.pat.span(), &format!("delete match arm {}", arm.pat.to_token_stream()));
                arm.guard = Some((Default::default(), Box::new(parse_quote!(!crate::mutated(#n)))));
            }
            return;
        };
        if has_let(&guard) {
            arm.guard = Some((token, guard));
            return;
        }
        let yes = self.number(span, &format!("replace match guard {text} with true"));
        let no = self.number(span, &format!("replace match guard {text} with false"));
        let either =
            parse_quote!((if crate::mutated(#yes) { true } else if crate::mutated(#no) { false } else { #guard }));
        arm.guard = Some((token, Box::new(either)));
    }

    fn binary(&mut self, binary: &syn::ExprBinary) -> Option<Expr> {
        let others = other_operators(&binary.op);
        if others.is_empty() || has_let(&binary.left) || has_let(&binary.right) {
            return None;
        }
        let (left, right, own) = (&binary.left, &binary.right, binary.op);
        let mut out = quote!(#left #own #right);
        for other in others {
            let what = format!("replace {} with {}", own.to_token_stream(), other.to_token_stream());
            let n = self.number(own.span(), &what);
            out = quote!(if crate::mutated(#n) { #left #other #right } else { #out });
        }
        let assigns = matches!(own, BinOp::AddAssign(_) | BinOp::SubAssign(_));
        Some(if assigns { parse_quote!({ #out }) } else { parse_quote!((#out)) })
    }
}

impl VisitMut for Mutate {
    fn visit_item_mut(&mut self, item: &mut Item) {
        let skipped = match item {
            Item::Mod(module) => is_test(&module.attrs),
            Item::Fn(function) => is_test(&function.attrs),
            // Text for people.
            Item::Impl(of) => of.trait_.as_ref().is_some_and(|(_, name, _)| {
                name.segments.last().is_some_and(|last| last.ident == "Display" || last.ident == "Debug")
            }),
            Item::Const(_) | Item::Static(_) | Item::Macro(_) => true,
            _ => false,
        };
        if !skipped {
            visit_mut::visit_item_mut(self, item);
        }
    }

    fn visit_impl_item_const_mut(&mut self, _: &mut syn::ImplItemConst) {}
    fn visit_macro_mut(&mut self, _: &mut syn::Macro) {}
    fn visit_pat_mut(&mut self, _: &mut syn::Pat) {}
    fn visit_type_mut(&mut self, _: &mut syn::Type) {}

    fn visit_item_fn_mut(&mut self, function: &mut syn::ItemFn) {
        let (signature, block) = (&function.sig, &mut function.block);
        self.body(signature, block, |this, block| visit_mut::visit_block_mut(this, block));
    }

    fn visit_impl_item_fn_mut(&mut self, function: &mut syn::ImplItemFn) {
        let (signature, block) = (&function.sig, &mut function.block);
        self.body(signature, block, |this, block| visit_mut::visit_block_mut(this, block));
    }

    fn visit_expr_match_mut(&mut self, of: &mut syn::ExprMatch) {
        let told =
            |arm: &syn::Arm| Some(&arm.guard.as_ref()?.1).map(|one| (one.span(), one.to_token_stream().to_string()));
        let guards: Vec<Option<(Span, String)>> = of.arms.iter().map(told).collect();
        visit_mut::visit_expr_match_mut(self, of);
        // Without an arm for all the rest, no arm can be taken out.
        let rest = of.arms.last().is_some_and(|arm| matches!(arm.pat, syn::Pat::Wild(_)) && arm.guard.is_none());
        let last = of.arms.len().saturating_sub(1);
        let arms = of.arms.iter_mut().zip(guards).enumerate();
        arms.for_each(|(at, (arm, told))| self.guard(arm, told, rest && at < last));
    }

    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        visit_mut::visit_expr_mut(self, expr);
        match expr {
            Expr::Binary(binary) => {
                if let Some(mutated) = self.binary(binary) {
                    *expr = mutated;
                }
            }
            Expr::Unary(unary) if matches!(unary.op, UnOp::Not(_)) => {
                let inner = unary.expr.clone();
                let n = self.number(unary.span(), "delete !");
                *expr = parse_quote!((if crate::mutated(#n) { !(!#inner) } else { !#inner }));
            }
            _ => {}
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let root = std::path::PathBuf::from(arguments.next().ok_or("driftprobe-mutants ROOT FILE…")?);
    let mut next = 1;
    for file in arguments {
        let path = root.join(&file);
        let mut tree = syn::parse_file(&std::fs::read_to_string(&path)?)?;
        let mut mutate = Mutate { file, function: vec![], next, list: vec![] };
        mutate.visit_file_mut(&mut tree);
        mutate.list.iter().for_each(|line| println!("{line}"));
        next = mutate.next;
        std::fs::write(&path, tree.to_token_stream().to_string())?;
    }
    Ok(())
}
