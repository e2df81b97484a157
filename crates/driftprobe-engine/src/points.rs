//! Which points a model has, whatever computes it.

use driftprobe_model::Config;
use driftprobe_trace::{Only, Point};

/// The points that a model of this config has, in the order of the forward pass. An engine may show fewer.
pub fn points_of(config: &Config) -> impl Iterator<Item = Point> {
    let (qk_norm, post_norms) = (config.qk_norm, config.post_norms);
    let has = move |point: &Point| match point.only() {
        Some(Only::QkNorm) => qk_norm,
        Some(Only::PostNorms) => post_norms,
        None => true,
    };
    Point::ALL.iter().copied().filter(has)
}
