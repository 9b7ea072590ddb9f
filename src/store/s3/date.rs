//! The date of an answer, by the service's clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};

/// Takes down what an answer says in `Date` (RFC 9110, 6.6.1).
#[derive(Clone, Debug, Default)]
pub(super) struct DateOfAnswer(Arc<Mutex<Option<i64>>>);

impl DateOfAnswer {
    /// The time since `then`, in seconds since 1970; `None` where no date came.
    pub(super) fn since(&self, then: i64) -> Option<Duration> {
        let date = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(Duration::from_secs(u64::try_from(date.saturating_sub(then)).unwrap_or(0)))
    }
}

impl Intercept for DateOfAnswer {
    fn name(&self) -> &'static str {
        "date of the answer"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|text| DateTime::from_str(text, DateTimeFormat::HttpDate).ok()).map(|date| date.secs());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date;
        Ok(())
    }
}
