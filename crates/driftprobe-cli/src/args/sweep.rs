//! `--sweep`: a setting and its values.

use super::{EngineArgs, Switch};
use clap::ValueEnum;
use std::fmt::Display;
use std::str::FromStr;

/// A setting that can be swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Setting {
    /// Tokens a chunk of the prefill.
    PrefillChunk,
    /// Sequences computed at once.
    Batch,
    /// Threads.
    Threads,
    /// Attention of the prefill.
    PrefillAttention,
    /// Attention of the decode.
    DecodeAttention,
    /// Whether llama.cpp's attention is fused.
    FlashAttention,
    /// Type of the KV cache.
    KvCache,
    /// Type of what is stored between stages.
    Dtype,
    /// Tokens of llama.cpp's micro-batches.
    Ubatch,
    /// Tokens of the prompts.
    Context,
}

/// A setting and the values that it is to take, in order.
#[derive(Clone, Debug)]
pub struct Axis {
    /// The setting.
    pub setting: Setting,
    /// Its values; two at least, no two alike.
    pub values: Vec<String>,
}

/// Values of one sweep.
const VALUES_MAX: usize = 64;

impl FromStr for Axis {
    type Err = String;
    fn from_str(text: &str) -> Result<Axis, String> {
        let (name, values) = text.split_once('=').ok_or("expected SETTING=VALUE,VALUE,…, such as batch=1,2,4")?;
        let names = || Setting::value_variants().iter().map(|one| one.id()).collect::<Vec<_>>().join(", ");
        let setting = Setting::from_str(name, false).map_err(|_| format!("{name:?} is none of {}", names()))?;
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        if values.len() < 2 || values.len() > VALUES_MAX {
            return Err(format!("expected 2 to {VALUES_MAX} values separated by commas, found {}", values.len()));
        }
        let meant =
            |value: &String| value.split(':').map(|part| part.trim_start_matches('0').to_owned()).collect::<Vec<_>>();
        if let Some(twice) =
            values.iter().enumerate().find(|(at, value)| values[..*at].iter().any(|other| meant(other) == meant(value)))
        {
            return Err(format!("the value {:?} stands there twice", twice.1));
        }
        Ok(Axis { setting, values })
    }
}

impl Setting {
    /// Name on the command line.
    pub fn id(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What its numbers count.
    pub const fn unit(self) -> Option<&'static str> {
        match self {
            Setting::PrefillChunk | Setting::Ubatch | Setting::Context => Some("tokens"),
            Setting::Batch => Some("sequences"),
            Setting::Threads => Some("threads"),
            _ => None,
        }
    }

    /// Whether the sequences stay the same, so that rows can be held against those of the first value.
    pub fn keeps_sequences(self) -> bool {
        self != Setting::Context
    }

    /// The option that gives this setting one value, if it was given: each run would take the sweep's in its place.
    pub fn given(self, engine: &EngineArgs) -> Option<&'static str> {
        let (given, option) = match self {
            Setting::PrefillChunk => (engine.prefill_chunk.is_some(), "--prefill-chunk"),
            Setting::Batch => (engine.batch.is_some(), "--batch"),
            Setting::Threads => (engine.threads.is_some(), "--threads"),
            Setting::Ubatch => (engine.ubatch.is_some(), "--ubatch"),
            Setting::Context => (engine.prompt_tokens.is_some(), "--prompt-tokens"),
            Setting::PrefillAttention => (engine.prefill_attention.is_some(), "--prefill-attention"),
            Setting::DecodeAttention => (engine.decode_attention.is_some(), "--decode-attention"),
            Setting::Dtype => (engine.dtype.is_some(), "--dtype"),
            Setting::KvCache => (engine.kv_cache.is_some(), "--kv-cache"),
            Setting::FlashAttention => (engine.flash_attention.is_some(), "--flash-attention"),
        };
        given.then_some(option)
    }

    /// The options with this setting at `value`.
    ///
    /// # Errors
    /// If it is no value of the setting: what it should be.
    pub fn at(self, value: &str, engine: &EngineArgs) -> Result<EngineArgs, String> {
        let mut args = engine.clone();
        match self {
            Setting::PrefillChunk => args.prefill_chunk = Some(count(value)?),
            Setting::Batch => args.batch = Some(count(value)?),
            Setting::Threads => args.threads = Some(count(value)?),
            Setting::Ubatch => args.ubatch = Some(count(value)?),
            Setting::Context => args.prompt_tokens = Some(count(value)?),
            Setting::PrefillAttention => args.prefill_attention = Some(parsed(value)?),
            Setting::DecodeAttention => args.decode_attention = Some(parsed(value)?),
            Setting::Dtype => args.dtype = Some(parsed(value)?),
            Setting::KvCache => args.kv_cache = Some(value.to_owned()),
            Setting::FlashAttention => args.flash_attention = Some(Switch::from_str(value, false)?),
        }
        Ok(args)
    }
}

fn count(value: &str) -> Result<usize, String> {
    value.parse().ok().filter(|count| *count > 0).ok_or_else(|| format!("{value:?} is no count from 1"))
}

fn parsed<T: FromStr<Err: Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|e: T::Err| format!("{value:?}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_names_a_setting_and_two_values_at_least() {
        let axis: Axis = "prefill-attention=naive, blocked:16".parse().unwrap();
        assert_eq!((axis.setting, axis.values), (Setting::PrefillAttention, vec!["naive".into(), "blocked:16".into()]));
        for wrong in [
            "batch",
            "batch=1",
            "batch=1,1",
            "threads=1,01",
            "prefill-attention=blocked:64,blocked:064",
            "speed=1,2",
            "batch=",
            "",
        ] {
            assert!(wrong.parse::<Axis>().is_err(), "{wrong}");
        }
    }
}
