"""Runs what is missing of a plan: session, scheduler, engines, logs; speaks in events alone."""
