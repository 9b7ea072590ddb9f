//! Frames: how a chunk is written smaller, and read back.
