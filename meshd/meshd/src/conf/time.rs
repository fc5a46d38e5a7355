//! Instants as people write them: RFC 3339 in UTC, to the second. No clock is read here.

use std::fmt;

use super::value::Fault;

/// An instant to the second: seconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UtcTime(pub u64);

impl UtcTime {
    /// RFC 3339 in UTC without fractions: `2026-11-23T12:00:00Z`, from 1970 on.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        parse_rfc3339(text).ok_or_else(|| {
            Fault::new(
                format!("`{text}` is not a UTC time"),
                "write it as 2026-11-23T12:00:00Z",
            )
        })
    }
}

fn parse_rfc3339(text: &str) -> Option<UtcTime> {
    let bytes = text.as_bytes();
    let shape = b"dddd-dd-ddTdd:dd:ddZ";
    let fits = |(&b, &s): (&u8, &u8)| {
        if s == b'd' {
            b.is_ascii_digit()
        } else {
            b == s
        }
    };
    if bytes.len() != shape.len() || !bytes.iter().zip(shape).all(fits) {
        return None;
    }
    let at = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (at(0, 4)?, at(5, 7)?, at(8, 10)?);
    let (hour, minute, second) = (at(11, 13)?, at(14, 16)?, at(17, 19)?);
    if year < 1970
        || !(1..=12).contains(&month)
        || day < 1
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    if day > days_in_month(year, month) {
        return None;
    }
    let days = days_before_year(year) - days_before_year(1970)
        + (1..month).map(|m| days_in_month(year, m)).sum::<u64>()
        + (day - 1);
    Some(UtcTime(((days * 24 + hour) * 60 + minute) * 60 + second))
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 0001-01-01 to the first of January of `year`, in the Gregorian calendar.
fn days_before_year(year: u64) -> u64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut days, rest) = (self.0 / 86_400, self.0 % 86_400);
        let mut year = 1970;
        while days >= 365 + u64::from(is_leap(year)) {
            days -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let mut month = 1;
        while days >= days_in_month(year, month) {
            days -= days_in_month(year, month);
            month += 1;
        }
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        write!(
            f,
            "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z",
            days + 1
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_and_know_the_calendar() {
        assert_eq!(UtcTime::parse("1970-01-01T00:00:00Z"), Ok(UtcTime(0)));
        assert_eq!(
            UtcTime::parse("2026-11-23T12:00:00Z"),
            Ok(UtcTime(1_795_435_200))
        );
        for text in [
            "2000-02-29T23:59:59Z",
            "2024-02-29T00:00:00Z",
            "2026-12-31T23:59:59Z",
            "9999-12-31T23:59:59Z",
        ] {
            assert_eq!(UtcTime::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "2023-02-29T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-13-01T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23 12:00:00Z",
            "2026-11-23T12:00:00+00:00",
            "2026-11-23T12:00:00.5Z",
            "2026-11-23T12:00:60Z",
            "",
        ] {
            assert!(UtcTime::parse(text).is_err(), "{text}");
        }
    }
}
