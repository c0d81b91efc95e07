//! The whole product against real parts: one module for each promise or surface.

mod support;
