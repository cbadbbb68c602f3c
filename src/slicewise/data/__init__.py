"""Where the hidden states come from that enter the teacher and the student."""
