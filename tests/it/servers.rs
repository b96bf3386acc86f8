//! Servers of other kinds.
