//! What every backend shares: constant weights, buffer plan, packing.
