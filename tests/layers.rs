//! The floor plan, executable.
