//! Colours of pictures and pages: blue for what rounding makes, orange and brown for what is beyond; told apart by people
//! who see colours otherwise, since lightness goes along. In each pair the first is for light pages, the second for dark.

use plotters::style::RGBColor;

/// A colour for light pages and one for dark ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour {
    /// On white.
    pub light: u32,
    /// On black.
    pub dark: u32,
}

impl Colour {
    const fn new(light: u32, dark: u32) -> Colour {
        Colour { light, dark }
    }

    /// As plotters has it, on white.
    pub const fn rgb(self) -> RGBColor {
        let [_, r, g, b] = self.light.to_be_bytes();
        RGBColor(r, g, b)
    }
}

/// Text.
pub const INK: Colour = Colour::new(0x1B1F24, 0xE6EDF3);
/// Text of less weight.
pub const DIM: Colour = Colour::new(0x57606A, 0x9DA7B3);
/// Lines of the grid.
pub const GRID: Colour = Colour::new(0xE3E7EB, 0x2B333C);
/// What a line stands on.
pub const AXIS: Colour = Colour::new(0x8C959F, 0x6E7681);
/// Prefill, or the run as designed.
pub const FIRST: Colour = Colour::new(0x0B5FA5, 0x6CB6FF);
/// Decode, or the run with prefill's cache.
pub const SECOND: Colour = Colour::new(0xB3541E, 0xF0A26B);
/// A third series.
pub const THIRD: Colour = Colour::new(0x1A7F5A, 0x56D39A);
/// A fourth.
pub const FOURTH: Colour = Colour::new(0x8250DF, 0xC297FF);
/// What draws of rounding make.
pub const NOISE: Colour = Colour::new(0x9AB7D3, 0x3A5A7A);
/// What is wrong.
pub const BAD: Colour = Colour::new(0xB4122B, 0xFF7B86);

/// Steps of the heat map, from bit-equal up; the first four hold what rounding may make.
pub const HEAT: [Colour; STEPS] = [
    Colour::new(0xF1F4F7, 0x1A2128),
    Colour::new(0xDCE9F5, 0x15304A),
    Colour::new(0xB9D5EC, 0x1E4A73),
    Colour::new(0xFDF1BD, 0x54481A),
    Colour::new(0xFECF6A, 0x7A5C12),
    Colour::new(0xFB9A45, 0x9C4F10),
    Colour::new(0xC04A00, 0xF59A4A),
    Colour::new(0x7A2604, 0xFFDDB8),
];
/// How many there are.
pub const STEPS: usize = 8;
/// Steps on which text is written light on light pages and dark on dark ones.
pub const INVERTED_FROM: usize = 6;
/// Text on those.
pub const INVERTED: Colour = Colour::new(0xFFFFFE, 0x14181D);
/// No size is known.
pub const BLANK: Colour = Colour::new(0xFDFDFE, 0x11161B);

/// Every colour that a picture may use.
pub fn all() -> impl Iterator<Item = Colour> {
    [INK, DIM, GRID, AXIS, FIRST, SECOND, THIRD, FOURTH, NOISE, BAD, INVERTED, BLANK].into_iter().chain(HEAT)
}

/// A step's colour; the last one for whatever is beyond.
pub fn heat(step: usize) -> Colour {
    HEAT.get(step).copied().unwrap_or(HEAT[STEPS - 1])
}

/// The colour of text on a step.
pub fn text_on(step: Option<usize>) -> Colour {
    if step.is_some_and(|step| step >= INVERTED_FROM) { INVERTED } else { INK }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Relative luminance and contrast, as WCAG 2 defines them.
    fn contrast(a: u32, b: u32) -> f64 {
        let luminance = |colour: u32| {
            let [_, r, g, b] = colour.to_be_bytes().map(|c| {
                let c = f64::from(c) / 255.0;
                if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
            });
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_can_be_read_on_every_step() {
        for (step, colour) in HEAT.into_iter().enumerate() {
            let text = text_on(Some(step));
            let [light, dark] = [contrast(colour.light, text.light), contrast(colour.dark, text.dark)];
            assert!(light >= 4.5 && dark >= 4.5, "step {step}: {light:.1} {dark:.1}");
        }
        assert!(contrast(DIM.light, 0xFFFFFF) >= 4.5 && contrast(DIM.dark, 0x0D1117) >= 4.5);
    }

    #[test]
    fn no_two_roles_share_a_colour_so_that_a_page_can_give_each_its_own() {
        let all: Vec<u32> = all().map(|colour| colour.light).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
}
