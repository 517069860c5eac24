"""What happens around training: counting, probing, drawing, leaving a record."""
