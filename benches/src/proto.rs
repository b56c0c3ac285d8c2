//! What a child process tells the driver: lines of `name metric value unit`.
//!
//! A workload process reads requests `contender n` from stdin and answers each with lines and a final `.`; a line that
//! starts with `!` is the reason why there is no figure. The Go and C++ programs take their request as arguments and
//! print the same lines. A value `inf` means "did not happen before the limit".

use std::{fmt, str::FromStr};

/// One measured value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Who was measured, without spaces.
    pub contender: String,
    /// What of it, without spaces.
    pub metric: String,
    /// The value; infinite if it did not happen in time.
    pub value: f64,
    /// Its unit.
    pub unit: String,
}

impl Sample {
    /// A sample from its parts.
    pub fn new(contender: &str, metric: &str, value: f64, unit: &str) -> Self {
        Sample { contender: contender.into(), metric: metric.into(), value, unit: unit.into() }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.contender, self.metric, self.value, self.unit)
    }
}

/// A line that is not `name metric value unit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotASample(pub String);

impl FromStr for Sample {
    type Err = NotASample;
    fn from_str(line: &str) -> Result<Self, NotASample> {
        let mut words = line.split_whitespace();
        let parts = (words.next(), words.next(), words.next().and_then(|v| v.parse().ok()), words.next());
        match (parts, words.next()) {
            ((Some(contender), Some(metric), Some(value), Some(unit)), None) => {
                Ok(Sample::new(contender, metric, value, unit))
            }
            _ => Err(NotASample(line.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_the_way() {
        for s in [Sample::new("go", "wall", 12.5, "ns"), Sample::new("may", "last", f64::INFINITY, "ms")] {
            assert_eq!(s.to_string().parse(), Ok(s));
        }
    }

    #[test]
    fn other_lines_are_refused() {
        for line in ["", "go wall", "go wall fast ns", "go wall 1 ns more"] {
            assert_eq!(line.parse::<Sample>(), Err(NotASample(line.into())));
        }
    }
}
