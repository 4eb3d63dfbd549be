//! The meter as its callers see it.
