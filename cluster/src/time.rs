//! Points in time, as the API writes them.

use k8s_openapi::jiff::Timestamp;

use crate::kind::Metadata;

impl<A, L> Metadata<A, L> {
    /// When the object was created, in seconds of Unix time; `None` if it does not say.
    pub fn created_s(&self) -> Option<i64> {
        let time = self.creation_timestamp.as_deref()?.parse::<Timestamp>().ok()?;
        Some(time.as_second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_api_writes_them() {
        let created = |text: Option<&str>| {
            Metadata::<(), ()> { creation_timestamp: text.map(str::to_owned), ..Metadata::default() }
                .created_s()
        };
        assert_eq!(created(Some("1970-01-02T00:00:01Z")), Some(86_401));
        assert_eq!(created(Some("soon")), None);
        assert_eq!(created(None), None);
    }
}
