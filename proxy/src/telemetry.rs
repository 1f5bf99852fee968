//! What the proxy tells its operators beside the access log: diagnostics on stderr, and metrics.
//!
//! **Architecture invariant:** records are not diagnostics and never come here.

pub(crate) mod logging;
pub(crate) mod metrics;
