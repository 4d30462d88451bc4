//! Opens an artifact and runs it: the embedding interface of the runtime.
