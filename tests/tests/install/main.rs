//! A clean Debian gets the package or what has been built, its systemd starts the service as the unit says, a user works
//! with it, and pages that change a whole host are typed.

mod built;
mod pages;
mod service;
