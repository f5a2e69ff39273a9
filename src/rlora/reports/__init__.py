"""Tables, figures and pages of finished runs, with paired statistics."""
