//! The rotary embedding's frequencies, with the scalings that stretch them for long contexts.
//!
//! Sources: RoPE arXiv 2104.09864; YaRN arXiv 2309.00071; the `llama3` rule from Llama 3.1's release. The frequencies are
//! computed in f64; engines hold them rounded once to f32.

use std::f64::consts::PI;

/// Which two elements of a head form a rotary pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Elements i and i + head_dim/2 (Hugging Face).
    Half,
    /// Elements 2i and 2i + 1 (GGUF files of the llama architecture).
    Interleaved,
}

impl RopeLayout {
    /// Name as it stands in a manifest's `config.rope_layout`.
    pub const fn id(self) -> &'static str {
        match self {
            RopeLayout::Half => "half",
            RopeLayout::Interleaved => "interleaved",
        }
    }
}

/// How the frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All of them divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept, the ones between blended.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context in tokens that the model was first trained on.
        original_context: f64,
    },
    /// YaRN: a ramp over the frequency index, and a factor on cos and sin.
    Yarn {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Context in tokens that the model was first trained on.
        original_context: f64,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided.
        beta_slow: f64,
        /// Factor on cos and sin.
        attention_factor: f64,
        /// Whether the ramp's ends are rounded outwards to whole indices.
        truncate: bool,
    },
    /// A divisor for each frequency, as GGUF's `rope_freqs.weight` gives them.
    Factors(Vec<f32>),
}

/// The rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Pairing.
    pub layout: RopeLayout,
    /// Stretching.
    pub scaling: RopeScaling,
}

impl Rope {
    /// The head_dim/2 frequencies in radians a position, rounded to f32.
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f32> {
        self.frequencies(head_dim).iter().map(|f| *f as f32).collect()
    }

    /// The head_dim/2 frequencies in radians a position, in f64.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        let half = head_dim / 2;
        let plain = |i: usize| self.theta.powf(-2.0 * i as f64 / head_dim as f64);
        let scaled = |i: usize| match &self.scaling {
            RopeScaling::None => plain(i),
            RopeScaling::Linear { factor } => plain(i) / factor,
            RopeScaling::Factors(factors) => plain(i) / f64::from(factors.get(i).copied().unwrap_or(1.0)),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                llama3(plain(i), *factor, *low_freq_factor, *high_freq_factor, *original_context)
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
                let dim = |rotations: f64| {
                    head_dim as f64 * (original_context / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (dim(*beta_fast), dim(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                plain(i) / factor * divided + plain(i) * (1.0 - divided)
            }
        };
        (0..half).map(scaled).collect()
    }

    /// Factor on cos and sin (1 except for YaRN).
    pub fn attention_factor(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    pub(crate) fn check(&self, head_dim: usize) -> Result<(), String> {
        let numbers: Vec<f64> = match &self.scaling {
            RopeScaling::None => vec![],
            RopeScaling::Linear { factor } => vec![*factor],
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                if low_freq_factor == high_freq_factor {
                    return Err("rope scaling: low_freq_factor equals high_freq_factor".to_owned());
                }
                vec![*factor, *low_freq_factor, *high_freq_factor, *original_context]
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, .. } => {
                vec![*factor, *original_context, *beta_fast, *beta_slow, *attention_factor]
            }
            RopeScaling::Factors(factors) if factors.len() == head_dim / 2 => {
                factors.iter().map(|f| f64::from(*f)).collect()
            }
            RopeScaling::Factors(factors) => {
                return Err(format!("rope_freqs has {} factors, expected {}", factors.len(), head_dim / 2));
            }
        };
        if numbers.iter().all(|n| n.is_finite() && *n > 0.0) && self.theta > 1.0 {
            return Ok(());
        }
        Err(format!(
            "rope scaling {:?} with theta {}: every number must be positive and finite",
            self.scaling, self.theta
        ))
    }
}

/// YaRN's factor on cos and sin where a config gives none.
pub(crate) fn yarn_mscale(scale: f64, mscale: f64) -> f64 {
    if scale <= 1.0 { 1.0 } else { 0.1 * mscale * scale.ln() + 1.0 }
}

fn llama3(freq: f64, factor: f64, low: f64, high: f64, original_context: f64) -> f64 {
    let wavelength = 2.0 * PI / freq;
    if wavelength < original_context / high {
        return freq;
    }
    if wavelength > original_context / low {
        return freq / factor;
    }
    let kept = (original_context / wavelength - low) / (high - low);
    (1.0 - kept) * freq / factor + kept * freq
}
