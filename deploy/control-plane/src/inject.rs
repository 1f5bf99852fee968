//! What a pod becomes when it gets its sidecar: pure, a pod in, a pod or a refusal out.
