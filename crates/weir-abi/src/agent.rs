//! What the real server agent shares with its BPF programs.
