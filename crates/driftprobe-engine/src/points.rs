//! Which points a model has, whatever computes it.

use driftprobe_model::Config;
use driftprobe_trace::Point;

/// The points that a model of this config has, in the order of the forward pass. An engine may show fewer.
pub fn points_of(config: &Config) -> impl Iterator<Item = Point> {
    let (qk_norm, post_norms) = (config.qk_norm, config.post_norms);
    let has = move |point: &Point| match point {
        Point::QProjOut | Point::KProjOut => qk_norm,
        Point::AttnPostNormOut | Point::MlpPostNormOut => post_norms,
        _ => true,
    };
    Point::ALL.iter().copied().filter(has)
}
