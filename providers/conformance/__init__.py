"""What a gateway for Claude Code has to get right, as data; run against our pure functions or any gateway."""
