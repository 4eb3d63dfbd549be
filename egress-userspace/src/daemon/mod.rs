//! The controller.
mod authority;
mod cutting;
