//! Numbers of different types on one number line: cel-spec langdef, "Numeric Values" and "Ordering".

use std::cmp::Ordering;

/// A number to compare: no digit is lost.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    /// An int or a uint.
    Integer(i128),
    Double(f64),
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

impl PartialOrd for Number {
    /// `None` with a NaN.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Integer(one), Self::Integer(two)) => Some(one.cmp(two)),
            (Self::Double(one), Self::Double(two)) => one.partial_cmp(two),
            (Self::Integer(one), Self::Double(two)) => integer_to_double(*one, *two),
            (Self::Double(one), Self::Integer(two)) => {
                integer_to_double(*two, *one).map(Ordering::reverse)
            }
        }
    }
}

fn integer_to_double(integer: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // Saturates, far beyond any int or uint.
    let whole = double.trunc();
    let order = integer.cmp(&(whole as i128));
    Some(order.then_with(|| whole.partial_cmp(&double).unwrap_or(Ordering::Equal)))
}
