"""What rlkd claims about speed and score: each benchmark is a command, with its last stored result beside it."""
