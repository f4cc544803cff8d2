//! `postroad` as people use it: started as a program, over a real Redis.

mod common;
mod demo;
mod dev;
mod listen;
