//! Pictures of an analysis, as SVG: for `drift.html` and for papers.
//!
//! One renderer for both. A picture holds no text from a trace, only names of points, layers, phases and modes, and it uses
//! presentation attributes alone, so that a page may give it other colours.

mod attention;
mod chart;
mod growth;
pub(super) mod heat;
mod heatmap;
mod modes;
pub(super) mod palette;
pub(super) mod ratio;
mod sweep;

use crate::analysis::Analysis;
use plotters::coord::Shift;
use plotters::prelude::{DrawingArea, IntoDrawingArea, SVGBackend};

/// What can be drawn of an analysis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plot {
    /// Layers by points in units of noise.
    Heatmap,
    /// Drift of the residual stream over the layers, with what draws of rounding make.
    Growth,
    /// Each tensor's drift as designed against that with prefill's cache.
    Modes,
    /// Attention before and after softmax.
    Attention,
}

impl Plot {
    /// All of them.
    pub const ALL: [Plot; 4] = [Plot::Heatmap, Plot::Growth, Plot::Modes, Plot::Attention];

    /// Name on the command line.
    pub const fn id(self) -> &'static str {
        match self {
            Plot::Heatmap => "heatmap",
            Plot::Growth => "growth",
            Plot::Modes => "modes",
            Plot::Attention => "attention",
        }
    }

    /// In words.
    pub const fn title(self) -> &'static str {
        match self {
            Plot::Heatmap => "Where the phases part",
            Plot::Growth => "How drift grows over the layers",
            Plot::Modes => "As designed against aligned",
            Plot::Attention => "Attention before and after softmax",
        }
    }
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// What it shows, in words: for who cannot see it.
    pub says: String,
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// What lies inside the SVG element.
    body: String,
}

impl Picture {
    /// A document of its own, on white.
    pub fn to_svg(&self, title: &str) -> String {
        let (width, height) = self.size;
        let title = super::escape::html(title);
        let says = super::escape::html(&self.says);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
             <title>{title}</title>\n<desc>{says}</desc>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#FFFFFF\"/>\n{}</svg>\n",
            self.body
        )
    }

    /// An element of a page, which tells what it shows.
    pub(super) fn to_element(&self) -> String {
        let (width, height) = self.size;
        let says = super::escape::html(&self.says);
        format!(
            "<svg class=\"plot\" role=\"img\" aria-label=\"{says}\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\">\n{}</svg>",
            self.body
        )
    }
}

/// Draws a picture.
///
/// # Errors
/// If there is nothing to draw: why, in a sentence.
pub fn picture(analysis: &Analysis, plot: Plot) -> Result<Picture, String> {
    match plot {
        Plot::Heatmap => heatmap::draw(analysis),
        Plot::Growth => growth::draw(analysis),
        Plot::Modes => modes::draw(analysis),
        Plot::Attention => attention::draw(analysis),
    }
}

pub use sweep::draw as sweep_picture;

/// Where a picture is drawn.
type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Whatever went wrong in drawing.
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// A picture of this size, out of what `draw` draws.
fn sketch(size: (u32, u32), says: String, draw: impl FnOnce(&Canvas<'_>) -> Drawn) -> Result<Picture, String> {
    let mut text = String::new();
    {
        let canvas = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&canvas).and_then(|()| Ok(canvas.present()?)).map_err(|e| format!("It could not be drawn: {e}"))?;
    }
    // The element itself is ours: it carries what the picture says.
    let body = text.split_once('>').map_or("", |(_, rest)| rest).trim();
    let body = body.strip_suffix("</svg>").unwrap_or(body).trim_start();
    Ok(Picture { says, size, body: body.to_owned() })
}
