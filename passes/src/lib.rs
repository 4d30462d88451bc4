//! Graph passes, one file each, and the pipeline that lists them.
