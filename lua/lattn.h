/* lattn.h: what lattn.c (registry, instances) and lstate.c (running them, states) share. */
#ifndef LATTN_H
#define LATTN_H
#include "lua_attnlab.h"
#include "../attention/attn.h"

attn *lal_attn_check(lua_State *L); /* the instance at argument 1; its sizes must be known */
/* The same; sizes that are unknown are taken from these inputs, and stay with lal_attn_keep. */
attn *lal_attn_fit(lua_State *L, const attn_in *in);
void lal_attn_keep(lua_State *L);
int lal_attn_forward(lua_State *L);   /* a:forward{q=, k=, v=, ...} -> o, or o, state with state= */
int lal_attn_step(lua_State *L);      /* a:step(state, {q=, ...}) -> o, state */
int lal_attn_state(lua_State *L);     /* a:state{batch=} */
int lal_attn_restore(lua_State *L);   /* a:restore(position, {name=tensor}) */
int lal_attn_inputs(lua_State *L);    /* core.attn.inputs() */
int lal_attn_documents(lua_State *L); /* core.attn.documents(starts) */
const char *lal_open_state(lua_State *L); /* name of the class */
#endif
