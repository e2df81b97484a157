//! How far rows are from expected ones.

/// The worst row's ‖found − expected‖ / ‖expected‖, in f64. NaN if anything is.
pub fn worst_row(found: &[f32], expected: &[f32], rows: usize) -> f64 {
    assert_eq!(found.len(), expected.len());
    let width = expected.len() / rows;
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let row_error = |(f, e): (&[f32], &[f32])| {
        let difference = norm(&mut f.iter().zip(e).map(|(f, e)| f64::from(*f) - f64::from(*e)));
        difference / norm(&mut e.iter().map(|e| f64::from(*e)))
    };
    let rows = found.chunks(width).zip(expected.chunks(width)).map(row_error);
    rows.fold(0.0, |worst: f64, e| if e.is_nan() || worst.is_nan() { f64::NAN } else { worst.max(e) })
}
