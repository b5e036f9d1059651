//! registry-static
