//! Lowers a verified graph to the plan of the CPU device.
