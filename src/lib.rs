//! The map of the house.

pub mod cli;
pub mod command;
pub mod config;
pub mod encode;
pub mod exit;
pub mod manifest;
pub mod pipeline;
pub mod plan;
pub mod postgis;
pub mod report;
pub mod sink;
pub mod source;
pub mod stop;
pub mod tile;
