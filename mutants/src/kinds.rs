//! What is replaced by what.

use quote::ToTokens;
use syn::{Attribute, BinOp, Expr};

/// Whether something is compiled for tests only.
pub fn is_test(attributes: &[Attribute]) -> bool {
    let text = |attribute: &Attribute| attribute.to_token_stream().to_string().replace(' ', "");
    attributes.iter().any(|attribute| ["#[test]", "#[cfg(test)]"].contains(&text(attribute).as_str()))
}

/// Whether a condition binds names, which another operator would lose.
pub fn has_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        Expr::Paren(paren) => has_let(&paren.expr),
        _ => false,
    }
}

/// The operators that take an operator's place.
pub fn other_operators(own: &BinOp) -> Vec<BinOp> {
    let others: &[&str] = match own {
        BinOp::And(_) => &["||"],
        BinOp::Or(_) => &["&&"],
        BinOp::Eq(_) => &["!="],
        BinOp::Ne(_) => &["=="],
        BinOp::Lt(_) => &["==", ">", "<="],
        BinOp::Gt(_) => &["==", "<", ">="],
        BinOp::Le(_) => &[">"],
        BinOp::Ge(_) => &["<"],
        BinOp::Add(_) => &["-", "*"],
        BinOp::Sub(_) => &["+", "/"],
        BinOp::Mul(_) => &["+", "/"],
        BinOp::Div(_) => &["%", "*"],
        BinOp::AddAssign(_) => &["-=", "*="],
        BinOp::SubAssign(_) => &["+=", "/="],
        BinOp::BitAnd(_) => &["|", "^"],
        BinOp::BitOr(_) => &["&", "^"],
        BinOp::Shl(_) => &[">>"],
        _ => &[],
    };
    others.iter().filter_map(|other| syn::parse_str(other).ok()).collect()
}

/// The values that take the place of what a function of this result gives.
pub fn other_results(result: &str) -> Vec<Expr> {
    let others: &[&str] = match result {
        "()" => &["()"],
        "bool" => &["true", "false"],
        "usize" | "u64" | "u32" | "u8" => &["0", "1"],
        of if of.starts_with("Option<") => &["None"],
        of if of.starts_with("Vec<") => &["Vec::new()"],
        _ => &[],
    };
    others.iter().filter_map(|other| syn::parse_str(other).ok()).collect()
}
