//! Golden cases and the harness that joins compiler and runtime.
