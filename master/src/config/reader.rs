//! Reads keys of a TOML table one by one and collects what is wrong with them.
