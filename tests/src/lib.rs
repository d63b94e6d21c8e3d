//! Runs the real processes and waits for conditions.
