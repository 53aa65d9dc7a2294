"""One attempt at a job: what is known of it, sending it, judging what came back, and how it ends."""
