"""Why a plan is as it is: costs, rivals, differences, pictures."""
