//! PNG out of SVG, with a font of our own, so that text shows on machines that have none.

use crate::failure::Failure;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

/// Parts of DejaVu Sans; see fonts/LICENSE.
const FONTS: [&[u8]; 2] =
    [include_bytes!("../fonts/DejaVuSans-subset.ttf"), include_bytes!("../fonts/DejaVuSans-Bold-subset.ttf")];

/// Pixels of a PNG that lies beside its SVG, for each of that one's.
pub const PNG_SCALE: u8 = 2;

/// A PNG of an SVG document, `scale` pixels for each of its own.
///
/// # Errors
/// If it is no SVG, or too large.
pub fn png(svg: &str, scale: u8) -> Result<Vec<u8>, Failure> {
    let failed = |what: String| Failure::new(format!("the picture could not be drawn: {what}"), "write an .svg");
    let mut options = Options::default();
    let fonts = options.fontdb_mut();
    for font in FONTS {
        fonts.load_font_data(font.to_vec());
    }
    fonts.set_sans_serif_family("DejaVu Sans");
    let tree = Tree::from_str(svg, &options).map_err(|e| failed(e.to_string()))?;
    let scale = f32::from(scale);
    let [width, height] = [tree.size().width(), tree.size().height()].map(|side| (side * scale).ceil() as u32);
    let canvas = Pixmap::new(width, height);
    let mut canvas = canvas.ok_or_else(|| failed(format!("{width} × {height} pixels are too many")))?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut canvas.as_mut());
    canvas.encode_png().map_err(|e| failed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pixels of a square that are not white, with this text on it.
    fn ink(text: &str) -> usize {
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"60\" height=\"40\"><rect width=\"60\" height=\"40\" \
             fill=\"#FFFFFF\"/><text x=\"10\" y=\"30\" font-family=\"sans-serif\" font-size=\"24\">{text}</text></svg>"
        );
        let png = png(&svg, 2).unwrap();
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
        // Width and height of the header, after length and name of its chunk.
        assert_eq!(png[16..24], [120u32.to_be_bytes(), 80u32.to_be_bytes()].concat());
        let pixels = Pixmap::decode_png(&png).unwrap();
        pixels.pixels().iter().filter(|pixel| pixel.red() < 128).count()
    }

    #[test]
    fn text_shows_without_a_font_on_the_machine() {
        assert_eq!(ink(""), 0);
        // What has no glyph would leave nothing, or the same box for all.
        let all = ["A", "≈", "✗", "↳", "≤", "–", "σ", "∞", "§"].map(ink);
        assert!(all.iter().all(|ink| *ink > 40), "{all:?}");
        let distinct: std::collections::BTreeSet<usize> = all.into_iter().collect();
        assert!(distinct.len() > 6, "{all:?}");
    }

    #[test]
    fn what_is_no_svg_is_refused() {
        assert!(png("<svg", 1).is_err());
    }
}
