//! A clean Debian gets the package, its systemd starts the service as the unit says, and a user works with it.

mod service;
