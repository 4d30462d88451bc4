//! Slow, obvious evaluator of the IR: the meaning of every op and the oracle of every test.
