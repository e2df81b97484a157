//! Random numbers that depend on nothing but a seed and a place.

use std::f64::consts::TAU;

/// Step of splitmix64's counter (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A seed for a part of what `seed` is for.
pub fn derived(seed: u64, parts: &[u64]) -> u64 {
    parts.iter().fold(mix(seed.wrapping_add(GAMMA)), |state, part| {
        mix(state.wrapping_mul(GAMMA).wrapping_add(*part).wrapping_add(GAMMA))
    })
}

/// Uniform in (0, 1], for a part of what `seed` is for.
pub fn uniform(seed: u64, parts: &[u64]) -> f64 {
    ((derived(seed, parts) >> 11) as f64 + 1.0) / (1u64 << 53) as f64
}

/// A sequence of normal numbers with mean 0 and variance 1.
pub struct Normal {
    counter: u64,
    spare: Option<f64>,
}

impl Normal {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Normal {
        Normal { counter: seed, spare: None }
    }

    /// Uniform in (0, 1].
    fn uniform(&mut self) -> f64 {
        self.counter = self.counter.wrapping_add(GAMMA);
        ((mix(self.counter) >> 11) as f64 + 1.0) / (1u64 << 53) as f64
    }

    /// The next number, by Box and Muller's transform of two uniform ones.
    pub fn next(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let (sin, cos) = (TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixer_is_splitmix64() {
        // The first outputs for seed 1234567 of the reference code (prng.di.unimi.it/splitmix64.c).
        let outputs: Vec<u64> = (1..=3u64).map(|i| mix(1_234_567u64.wrapping_add(GAMMA.wrapping_mul(i)))).collect();
        assert_eq!(outputs, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn moments_and_tails_are_those_of_a_normal_distribution() {
        let mut normal = Normal::new(derived(7, &[1, 2]));
        let n = 200_000;
        let all: Vec<f64> = (0..n).map(|_| normal.next()).collect();
        let moment = |k: i32| all.iter().map(|x| x.powi(k)).sum::<f64>() / f64::from(n);
        // Five standard errors: √(1/n), √(2/n), √(15/n), √(96/n).
        for (k, expected, error) in [(1, 0.0, 1.0f64), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            assert!((moment(k) - expected).abs() < 5.0 * (error / f64::from(n)).sqrt(), "moment {k}: {}", moment(k));
        }
        let beyond = all.iter().filter(|x| x.abs() > 1.959_964).count() as f64 / f64::from(n);
        assert!((beyond - 0.05).abs() < 0.003, "{beyond}");
        let lag: f64 = all.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / f64::from(n);
        assert!(lag.abs() < 5.0 / f64::from(n).sqrt(), "{lag}");
    }

    #[test]
    fn every_part_has_a_seed_of_its_own() {
        let mut seeds: Vec<u64> =
            (0..40).flat_map(|a| (0..40).flat_map(move |b| (0..3).map(move |s| derived(s, &[a, b])))).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 40 * 40 * 3);
    }
}
