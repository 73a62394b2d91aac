"""What a rule is, sees and says; which rules there are and which run."""
