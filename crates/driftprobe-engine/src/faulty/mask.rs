//! Faults of the attention mask.

use super::fault::{Group, Scope, Subject, Workshop};
use super::names::Parameters;
use super::scores::attention_point;
use crate::embedded::attention::{Attended, Inputs, Kernel, Mask, Shape};
use crate::embedded::interference::{At, Interference};
use crate::error::EngineError;
use driftprobe_trace::{Phase, Point};

/// Faults of the attention mask. A row that would see nothing keeps its own key: position 0 is as it should be.
#[derive(Clone, Debug, PartialEq)]
pub enum MaskFault {
    /// `MASK_SEES_FUTURE`: a row sees so many keys behind its own. The last row, which has none behind it, is only
    /// reached through the rows before it, a layer later.
    SeesFuture(usize),
    /// `MASK_MISSES_NEWEST`: a row does not see its own key.
    MissesNewest,
    /// `MASK_MISSES_FIRST`: no row sees the key of position 0.
    MissesFirst,
    /// `MASK_WINDOW`: a row sees this many keys only.
    Window(usize),
}

use MaskFault::{MissesFirst, MissesNewest, SeesFuture, Window};

impl Group for MaskFault {
    fn id(&self) -> &'static str {
        match self {
            SeesFuture(_) => "MASK_SEES_FUTURE",
            MissesNewest => "MASK_MISSES_NEWEST",
            MissesFirst => "MASK_MISSES_FIRST",
            Window(_) => "MASK_WINDOW",
        }
    }

    fn parameters(&self) -> Vec<String> {
        match self {
            SeesFuture(keys) | Window(keys) => vec![keys.to_string()],
            MissesNewest | MissesFirst => vec![],
        }
    }

    fn parse(id: &str, p: &mut Parameters<'_>) -> Result<Option<Self>, String> {
        Ok(Some(match id {
            "MASK_SEES_FUTURE" => SeesFuture(p.take("keys", 1)?),
            "MASK_MISSES_NEWEST" => MissesNewest,
            "MASK_MISSES_FIRST" => MissesFirst,
            "MASK_WINDOW" => Window(p.take("keys", 4)?),
            _ => return Ok(None),
        }))
    }

    fn all(subject: &Subject<'_>) -> Vec<Self> {
        // One key fewer than the last row sees is the smallest fault; half of them an ordinary one.
        let seen = subject.config().sliding_windows.iter().map(|w| w.unwrap_or(subject.tokens)).max();
        let seen = seen.unwrap_or(subject.tokens).min(subject.tokens);
        let mut all = vec![SeesFuture(1), MissesNewest, MissesFirst, Window(seen.saturating_sub(1))];
        if seen / 2 + 1 < seen {
            all.push(Window(seen / 2));
        }
        all
    }

    fn check(&self, subject: &Subject<'_>, scope: &Scope) -> Result<(), String> {
        let config = subject.config();
        let window = |l: usize| config.sliding_windows.get(l).copied().flatten();
        let windows = || scope.layers(config).map(window);
        if subject.tokens < 2 {
            return Err("one token has nothing but itself to see".to_owned());
        }
        match self {
            SeesFuture(_) if scope.phase == Some(Phase::Decode) => {
                Err("when a token is decoded there are no later keys to see".to_owned())
            }
            SeesFuture(0) => Err("0 keys of the future are none".to_owned()),
            SeesFuture(keys) if isize::try_from(*keys).is_err() => Err("so many keys there are not".to_owned()),
            MissesNewest if windows().any(|w| w == Some(1)) => {
                Err("a row with a window of 1 sees nothing else".to_owned())
            }
            MissesFirst if windows().all(|w| w.is_some_and(|w| w < subject.tokens)) => {
                Err("the first key is outside the last row's window already".to_owned())
            }
            Window(0) => Err("a window of 0 keys has no attention".to_owned()),
            Window(keys) if windows().all(|w| w.unwrap_or(subject.tokens).min(subject.tokens) <= *keys) => {
                Err(format!("a row sees no more than {keys} keys anyway"))
            }
            SeesFuture(_) | MissesNewest | MissesFirst | Window(_) => Ok(()),
        }
    }

    /// Scores are shown up to a row's own key, so that a sight of the future shows first in what they become.
    fn point(&self, subject: &Subject<'_>, phase: Phase) -> Point {
        match self {
            SeesFuture(_) => attention_point(subject, phase),
            MissesNewest | MissesFirst | Window(_) => Point::AttnScores,
        }
    }

    fn build(&self, _: &Workshop<'_>) -> Result<Box<dyn Interference>, EngineError> {
        Ok(Box::new(self.clone()))
    }
}

impl MaskFault {
    fn mask(&self, clean: Mask) -> Mask {
        match self {
            SeesFuture(keys) => Mask { ahead: isize::try_from(*keys).unwrap_or(isize::MAX), ..clean },
            MissesNewest => Mask { ahead: -1, ..clean },
            MissesFirst => Mask { first_key: 1, ..clean },
            Window(keys) => Mask { window: Some(clean.window.map_or(*keys, |w| w.min(*keys))), ..clean },
        }
    }
}

impl Interference for MaskFault {
    fn attend(&self, _: At, kernel: Kernel, inputs: &Inputs<'_>, shape: &Shape) -> Result<Attended, EngineError> {
        kernel.attend(inputs, &Shape { mask: self.mask(shape.mask), ..*shape })
    }
}
