//! The documentation is true: its commands are typed, its files are read, its references are what the types say.

mod commands;
mod files;
mod pages;
mod reference;
mod stage;
