"""Figures of a report. Nothing else imports matplotlib, and only a command that draws this."""
