//! Names of the places and variants that faults take as parameters, and how a fault's parameters are read.

use crate::embedded::interference::{Matrix, Norm, Residual};
use std::fmt::Display;
use std::str::FromStr;

/// A parameter that is one of a few names.
macro_rules! named {
    ($type:ty { $($variant:ident = $name:literal),* $(,)? }) => {
        impl $type {
            /// All of them.
            pub const ALL: &'static [$type] = &[$(<$type>::$variant),*];

            /// Name as it stands in a fault.
            pub const fn id(self) -> &'static str {
                match self { $(<$type>::$variant => $name),* }
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                let known = <$type>::ALL.iter().copied().find(|one| one.id() == s);
                known.ok_or_else(|| format!("expected one of {}", [$($name),*].join(", ")))
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.id())
            }
        }
    };
}
pub(super) use named;

named!(Matrix {
    Q = "q", K = "k", V = "v", O = "o", Gate = "gate", Up = "up", Down = "down", LmHead = "lm_head",
});
named!(Norm {
    Attn = "attn", Q = "q", K = "k", AttnPost = "attn_post", Ffn = "ffn", MlpPost = "mlp_post", Final = "final",
});
named!(Residual { Attn = "attn", Mlp = "mlp" });

/// The parameters of a fault, in order.
pub struct Parameters<'s> {
    rest: std::vec::IntoIter<&'s str>,
}

impl<'s> Parameters<'s> {
    pub fn new(parts: Vec<&'s str>) -> Parameters<'s> {
        Parameters { rest: parts.into_iter() }
    }

    /// The next one, or what stands for it where there is none.
    pub fn take<T: FromStr<Err: Display>>(&mut self, name: &str, otherwise: T) -> Result<T, String> {
        match self.rest.next() {
            None => Ok(otherwise),
            Some(text) => text.parse().map_err(|e| format!("{name} {text:?}: {e}")),
        }
    }

    /// Refuses what nobody has taken.
    pub fn end(mut self) -> Result<(), String> {
        match self.rest.next() {
            None => Ok(()),
            Some(text) => Err(format!("{text:?} is a parameter too many")),
        }
    }
}
