//! **P** Between the API's times (`jiff`, as kube has them) and ours (`chrono`, as the schedule has them). Both are whole
//! seconds in what is stored.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// The instant of an API time.
pub fn from_time(time: &Time) -> DateTime<Utc> {
    DateTime::from_timestamp(time.0.as_second(), 0).unwrap_or_default()
}

/// An API time, cut to the second.
pub fn to_time(instant: DateTime<Utc>) -> Time {
    Time(Timestamp::from_second(instant.timestamp()).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_the_way_there_and_back() {
        let instant = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        assert_eq!(from_time(&to_time(instant)), instant);
    }
}
