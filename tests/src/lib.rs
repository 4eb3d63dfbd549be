//! Worlds to test egress in.
