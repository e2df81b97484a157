//! Student's t distribution.

/// P(T > t) for `degrees` degrees of freedom; 0 for a t that is NaN, since nothing that NaN says is in favour of it.
pub fn upper_tail(t: f64, degrees: f64) -> f64 {
    if t.is_nan() {
        return 0.0;
    }
    // ½·I_x(ν/2, ½) at x = ν/(ν + t²).
    let half = 0.5 * incomplete_beta(degrees / (degrees + t * t), degrees / 2.0, 0.5);
    if t >= 0.0 { half } else { 1.0 - half }
}

/// The regularised incomplete beta function I_x(a, b), by its continued fraction (Lentz's method; DLMF 8.17.22).
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * fraction(x, a, b) / a
    } else {
        1.0 - front * fraction(1.0 - x, b, a) / b
    }
}

fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let guard = |v: f64| if v.abs() < TINY { TINY } else { v };
    let (mut c, mut d) = (1.0, 1.0 / guard(1.0 - (a + b) * x / (a + 1.0)));
    let mut all = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            d = 1.0 / guard(1.0 + term * d);
            c = guard(1.0 + term / c);
            change = c * d;
            all *= change;
        }
        if (change - 1.0).abs() < 1e-15 {
            break;
        }
    }
    all
}

/// ln Γ(x) for x > 0, by Lanczos' approximation (g = 7, nine terms).
fn ln_gamma(x: f64) -> f64 {
    const TERMS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let base = x + 7.5;
    let series = TERMS.iter().zip(1..).fold(0.999_999_999_999_809_9, |sum, (c, i)| sum + c / (x + f64::from(i)));
    0.5 * std::f64::consts::TAU.ln() + (x + 0.5) * base.ln() - base + series.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tails_are_those_of_the_tables() {
        // t, degrees of freedom, P(T > t): closed forms for 1 and 2 degrees, quantiles from the usual tables for others.
        let table = [
            (1.0, 1.0, 0.25),
            (12.706_204_736, 1.0, 0.025),
            (2.0, 2.0, 0.5 - 2.0 / (2.0 * 6f64.sqrt())),
            (2.364_624_25, 7.0, 0.025),
            (5.407_882_52, 7.0, 0.0005),
            (1.753_050_36, 15.0, 0.05),
            (4.072_765_14, 15.0, 0.0005),
        ];
        for (t, degrees, p) in table {
            assert!((upper_tail(t, degrees) / p - 1.0).abs() < 1e-6, "{t} {degrees}: {}", upper_tail(t, degrees));
            assert!((upper_tail(-t, degrees) - (1.0 - p)).abs() < 1e-8);
        }
        assert_eq!(upper_tail(0.0, 5.0), 0.5);
    }

    #[test]
    fn nothing_is_in_favour_of_nan_and_little_of_infinity() {
        assert_eq!(upper_tail(f64::NAN, 7.0), 0.0);
        assert_eq!(upper_tail(f64::INFINITY, 7.0), 0.0);
        assert_eq!(upper_tail(f64::NEG_INFINITY, 7.0), 1.0);
    }
}
