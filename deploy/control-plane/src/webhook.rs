//! Admission: pods get their sidecar, and documents that cannot be honoured are refused, over HTTPS with a certificate of our own.
